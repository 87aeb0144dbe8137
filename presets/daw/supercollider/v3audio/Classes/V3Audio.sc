// One `v3audio live` session, played and heard by OSC.
// Feedback comes to sclang's own port (NetAddr.langPort); v3audio learns it from the subscription.
V3Audio {
	var <host, <port, <addr, responders;

	*new { |host = "127.0.0.1", port = 9720| ^super.newCopyArgs(host, port).init }

	init {
		addr = NetAddr(host, port);
		responders = List.new;
		this.subscribe;
	}

	// Again after v3audio was restarted. hz: how often meters come.
	subscribe { |pattern = "/v3/*", hz = 30|
		addr.sendMsg('/v3/subscribe', pattern, NetAddr.langPort, hz.asFloat);
	}

	// Any address of the OSC table: x.set("gain/out", -6) sends /v3/gain/out -6.
	set { |path ... args| addr.sendMsg("/v3/" ++ path, *args) }

	ping { |...args| addr.sendMsg('/ping', *args) }
	get { |path| this.set("get", "/v3/" ++ path) }
	dump { this.set("dump") }

	enable { |on = true| this.set("enable", on.binaryValue) }
	bypass { |on = true| this.set("bypass", on.binaryValue) }
	freeze { |on = true| this.set("freeze", on.binaryValue) }

	timbre { |name| this.set("timbre", name) }
	timbreIndex { |index| this.set("timbre/index", index.asInteger) }
	fade { |ms = 50| this.set("timbre/fade_ms", ms.asFloat) }
	next { this.set("timbre/next") }
	prev { this.set("timbre/prev") }
	list { this.set("timbre/list") }

	// From timbre a to timbre b; a nil leaves what is there.
	morph { |a, b, amount|
		a !? { this.set("morph/a", a) };
		b !? { this.set("morph/b", b) };
		amount !? { this.set("morph/amount", amount.asFloat) };
	}
	corners { |nw, ne, sw, se| this.set("morph/corners", nw, ne, sw, se) }
	morphXY { |x = 0.5, y = 0.5| this.set("morph/xy", x.asFloat, y.asFloat) }

	mix { |amount = 1| this.set("mix", amount.asFloat) }
	gain { |in, out|
		in !? { this.set("gain/in", in.asFloat) };
		out !? { this.set("gain/out", out.asFloat) };
	}
	gate { |db = -50| this.set("gate", db.asFloat) }

	transpose { |semitones = 0| this.set("pitch/transpose", semitones.asInteger) }
	fine { |cents = 0| this.set("pitch/fine", cents.asFloat) }
	snap { |amount = 1| this.set("pitch/snap", amount.asFloat) }
	ref { |hz = 440| this.set("pitch/ref", hz.asFloat) }
	scale { |root, name|
		root !? { this.set("scale/root", root.asInteger) };
		name !? { this.set("scale/name", name) };
	}

	midi { |on = true| this.set("midi/enable", on.binaryValue) }
	channel { |n = 1| this.set("midi/channel", n.asInteger) }
	mode { |name = "bend"| this.set("midi/mode", name) }
	bendRange { |semitones = 2| this.set("midi/bend_range", semitones.asInteger) }
	minNote { |ms = 0| this.set("midi/min_note", ms.asFloat) }
	sensitivity { |amount = 0.5| this.set("midi/sensitivity", amount.asFloat) }
	velocity { |name = "level"| this.set("midi/velocity", name) }
	panic { this.set("midi/panic") }

	record { |on = true| this.set("rec/enable", on.binaryValue) }
	export { |name| this.set("rec/export", name) }
	capture { |name| this.set("capture/start", name) }
	captureStop { this.set("capture/stop") }

	// func gets the arguments of every /v3/<path> message; returns the OSCFunc.
	on { |path, func| ^this.prOn("/v3/" ++ path, func) }
	onNote { |func| ^this.on("out/note", func) }       // note, velocity (0: off), channel, cents
	onPitch { |func| ^this.on("out/pitch", func) }     // hz, confidence
	onLevel { |func| ^this.on("out/level", func) }     // dBFS
	onError { |func| ^this.on("error", func) }         // address, reason
	onPong { |func| ^this.prOn("/pong", func) }

	free {
		this.set("unsubscribe", "/v3/*", NetAddr.langPort);
		responders.do(_.free);
		responders.clear;
	}

	prOn { |address, func|
		var responder = OSCFunc(
			{ |msg| func.valueArray(msg.drop(1)) }, address.asSymbol, addr
		);
		responder.permanent = true; // Cmd-period stops sound, not listening
		responders.add(responder);
		^responder
	}
}
