# make model   learn all that ships from nothing: model, renderer, timbres, notes live and of files
#
# Takes FluidSynth, its soundfont, flite and TAKES, single notes under CC0 (see training/takes.py).
# It goes on where it stopped, writes what ships into the checkout, and RUNS holds reports and the
# hours of training sound. A step that has been done leaves an empty file there; remove one to do it
# again.

RUNS  ?= runs/shipped
TAKES ?= ../shared/train
# A second soundfont, for notes live and of files: that of Debian's musescore-general-soundfont.
SECOND ?= /usr/share/sounds/sf3/MuseScore_General.sf3
SEEN   = $(RUNS)/sound
MODEL  = presets/models/default
V3     = $(BIN)/python -m v3audio
LEARN  = $(BIN)/python -m training
DONE   = @touch $@

.PHONY: model
model: $(RUNS)/.belief $(RUNS)/.onsets $(RUNS)/.takes

$(RUNS)/.tools: | $(VENV)/.installed
	$(BIN)/python -m pip install --quiet -e '.[train]'
	mkdir -p $(RUNS)
	$(DONE)

# Melodies as rooms record them, and clean.
$(RUNS)/.melodies: | $(RUNS)/.tools
	$(V3) data melodies -o $(SEEN)/melodies --size 220
	$(DONE)

$(RUNS)/.second: | $(RUNS)/.tools
	$(V3) data melodies -o $(SEEN)/second --seed 5 --size 330 --soundfont $(SECOND)
	$(DONE)

# Two seeds side by side; the one whose prediction is better stays. No label is read.
$(RUNS)/.v3: $(RUNS)/.melodies
	$(V3) train v3 --resume --set run.out=$(RUNS)/v3 --set data.folder=$(SEEN)/melodies
	rm -f $(MODEL)/*
	cp $(RUNS)/v3/model/* $(MODEL)/
	$(DONE)

# Labelled tones name the codes, once.
$(RUNS)/.named: $(RUNS)/.v3
	$(V3) data melodies -o $(SEEN)/calibration --seed 2 --size 60
	$(V3) calibrate $(MODEL) $(SEEN)/calibration
	$(DONE)

# Notes of the soundfont, in the model's own style space.
$(RUNS)/.renderer: $(RUNS)/.named
	$(V3) train renderer --resume --set run.out=$(RUNS)/renderer --set data.folder=$(SEEN)/notes
	rm -f presets/timbres/*
	cp $(RUNS)/renderer/timbres/* presets/timbres/
	$(DONE)

# Heard by the notes of files, matched in level with the other timbres.
$(RUNS)/.takes: $(RUNS)/.renderer $(RUNS)/.onsets
	$(LEARN).takes $(TAKES) presets/timbres
	$(DONE)

# Which note is due, live; where notes begin and sound, in files. Both hear by the model above.
$(RUNS)/.belief: $(RUNS)/.named $(RUNS)/.second
	$(LEARN).live_notes --melodies $(SEEN)/melodies --melodies $(SEEN)/second --singles $(TAKES) \
		-o v3audio/belief.npz
	$(DONE)

$(RUNS)/.onsets: $(RUNS)/.named $(RUNS)/.second
	$(LEARN).file_notes --melodies $(SEEN)/melodies --melodies $(SEEN)/second --singles $(TAKES) \
		-o v3audio/onsets.npz
	$(DONE)
