"""A model as a folder: weights in safetensors, everything else in `model.json`. No pickle.

`model.json` holds the configuration, the code map, the checksums, where the model came from and
what was measured of it. A renderer may lie beside the V3 weights.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from v3audio.code_map import CodeMap
from v3audio.config import from_table, to_table
from v3audio.errors import BundleError, ConfigError, did_you_mean
from v3audio.paths import atomic_write, presets_dir, user_home

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from torch import nn

    from v3audio.cuda_hearing import CudaHearing
    from v3audio.geometry import ModelConfig
    from v3audio.hearing import Hearing
    from v3audio.live_hearing import LiveHearing
    from v3audio.model import V3Model
    from v3audio.renderer import FrozenNet, RendererConfig
    from v3audio.renderer_net import RendererNet

    Weights = dict[str, NDArray[np.float32]]  # by their names in the network

FORMAT = 1
KIND = "v3audio-model"
WEIGHTS, RENDERER, META = "model.safetensors", "renderer.safetensors", "model.json"
DEFAULT_MODEL = "default"


@dataclass(frozen=True, slots=True)
class Bundle:
    """What `model.json` says; the networks are built on demand."""

    folder: Path
    config: dict[str, Any]
    code_map: CodeMap | None
    checksum: str  # sha256 of the V3 weights: timbres belong to it
    made_by: dict[str, Any] = field(default_factory=dict)
    metrics: dict[str, Any] = field(default_factory=dict)
    renderer: dict[str, Any] | None = None  # {"config": ..., "sha256": ..., "made_by": ...}

    @property
    def name(self) -> str:
        """The folder's name, as timbres refer to it."""
        return self.folder.name

    def load_model(self) -> V3Model:
        """The V3 network with its weights, in evaluation mode."""
        from v3audio.model import V3Model

        model = V3Model(self._model_config())
        _fill(model, self.weights(), self.folder / WEIGHTS)
        return model.eval()

    def weights(self) -> Weights:
        """The V3 weights by name.

        Raises:
            BundleError: missing or damaged.
        """
        return _read(self.folder / WEIGHTS, self.checksum)

    def load_hearing(self) -> LiveHearing:
        """Encoder, codebook and code map as one function of windows, without loading torch.

        Raises:
            BundleError: damaged, foreign, or the codes have no names yet.
        """
        import numpy as np

        from v3audio.live_hearing import LiveHearing

        config, codes = self._model_config(), self._named_codes()
        with _weights_as_described(self.folder / WEIGHTS):
            weights = self.weights()
            n_codes = len(weights["codebook.atoms"])
            if not n_codes == len(codes.code_to_note) == config.codebook_size:
                raise ValueError(f"{n_codes} codes")
            hearing = LiveHearing(weights, config, codes)
            window = np.zeros((1, config.geometry.window_length), np.float32)
            hearing.frames(window, style=False)
        return hearing

    def load_torch_hearing(self, device: str = "cpu") -> Hearing:
        """The same in torch, on any device.

        Raises:
            BundleError: damaged, foreign, or the codes have no names yet.
        """
        from v3audio.hearing import Hearing

        return Hearing(self.load_model(), self._named_codes(), device)

    def load_live_hearing(self, device: str = "cpu") -> LiveHearing | CudaHearing:
        """The same, one frame at a time; on a GPU as one captured graph.

        Raises:
            BundleError: damaged, foreign, or the codes have no names yet.
        """
        if device == "cuda":
            from v3audio.cuda_hearing import CudaHearing

            return CudaHearing(self.load_torch_hearing(device))
        return self.load_hearing()

    def load_renderer(self) -> RendererNet:
        """The renderer's network.

        Raises:
            BundleError: damaged, or there is none.
        """
        from v3audio.renderer_net import RendererNet

        config, weights = self._renderer_parts()
        net = RendererNet(config)
        _fill(net, weights, self.folder / RENDERER)
        return net.eval()

    def load_frozen_renderer(self) -> FrozenNet:
        """The renderer's network in numpy, one frame at a time, without loading torch.

        Raises:
            BundleError: damaged, or there is none.
        """
        from v3audio.renderer import FrozenNet

        config, weights = self._renderer_parts()
        with _weights_as_described(self.folder / RENDERER):
            return FrozenNet(weights, config)

    def _model_config(self) -> ModelConfig:
        from v3audio.geometry import ModelConfig

        try:
            return from_table(ModelConfig, self.config)
        except ConfigError as e:
            raise BundleError(
                f"{self.folder / META}: {e}; it may be from another version"
            ) from None

    def _named_codes(self) -> CodeMap:
        if self.code_map is None:
            raise BundleError(
                f"{self.folder}: the codes have no names yet; "
                f"type 'v3audio calibrate {self.folder}' first"
            )
        return self.code_map

    def _renderer_parts(self) -> tuple[RendererConfig, Weights]:
        from v3audio.renderer import RendererConfig

        if self.renderer is None:
            raise BundleError(
                f"{self.folder}: has no renderer, so it can transcribe but not play; "
                "train one with 'v3audio train' and a renderer recipe"
            )
        try:
            config = from_table(RendererConfig, self.renderer["config"])
        except (ConfigError, KeyError) as e:
            raise BundleError(f"{self.folder / META}: renderer: {e}") from None
        return config, _read(self.folder / RENDERER, str(self.renderer.get("sha256")))


def find_model(name_or_folder: str | Path | None = None) -> Path:
    """Folder of a shipped or user model by name, or a folder by path; None: the shipped default.

    Raises:
        BundleError: no such model.
    """
    wanted = str(name_or_folder or DEFAULT_MODEL)
    if Path(wanted).joinpath(META).is_file():
        return Path(wanted)
    roots = (user_home() / "models", presets_dir() / "models")
    for root in roots:
        if root.joinpath(wanted, META).is_file():
            return root / wanted
    if Path(wanted).exists():
        raise BundleError(f"{wanted}: is no model (a folder with {META} and {WEIGHTS})")
    known = sorted(p.parent.name for root in roots for p in root.glob(f"*/{META}"))
    raise BundleError(
        f"no model '{wanted}'{did_you_mean(wanted, known)} (known: {', '.join(known)})"
    )


def load_bundle(name_or_folder: str | Path | None = None) -> Bundle:
    """Read and check a model's description.

    Raises:
        BundleError: missing, not JSON, foreign, of a future format, or damaged.
    """
    folder = find_model(name_or_folder)
    path = folder / META
    try:
        meta = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as e:
        raise BundleError(f"{path}: cannot be read as JSON ({e}); copy the model again") from None
    if not isinstance(meta, dict) or meta.get("kind") != KIND:
        raise BundleError(
            f"{path}: not a v3audio model (kind "
            f"{meta.get('kind') if isinstance(meta, dict) else meta!r})"
        )
    if meta.get("format") != FORMAT:
        raise BundleError(
            f"{path}: format {meta.get('format')}, this v3audio reads {FORMAT}; "
            "update v3audio (pip install -U v3audio) or use another model"
        )
    try:
        named = meta["code_to_note"]
        code_map = (
            None
            if named is None
            else CodeMap(
                [int(n) for n in named], float(meta["offset_semitones"]), float(meta["temperature"])
            )
        )
        bundle = Bundle(
            folder,
            meta["config"],
            code_map,
            meta["weights_sha256"],
            meta.get("made_by", {}),
            meta.get("metrics", {}),
            meta.get("renderer"),
        )
    except (KeyError, TypeError, ValueError) as e:
        raise BundleError(f"{path}: incomplete ({e!r}); copy the model again") from None
    if code_map and not all(0 <= n < 128 for n in code_map.code_to_note):
        raise BundleError(f"{path}: code_to_note holds numbers that are no MIDI notes")
    return bundle


def save_model(
    folder: Path, model: V3Model, *, made_by: dict[str, Any], metrics: dict[str, Any] | None = None
) -> Bundle:
    """Write a freshly trained model; its codes have no names yet."""
    folder.mkdir(parents=True, exist_ok=True)
    checksum = _save(model, folder / WEIGHTS)
    bundle = Bundle(folder, to_table(model.config), None, checksum, made_by, metrics or {})
    write_meta(bundle)
    return bundle


def save_renderer(bundle: Bundle, net: RendererNet, made_by: dict[str, Any]) -> Bundle:
    """Put a renderer beside the V3 weights it was trained on."""
    checksum = _save(net, bundle.folder / RENDERER)
    renderer = {"config": to_table(net.config), "sha256": checksum, "made_by": made_by}
    updated = Bundle(
        bundle.folder,
        bundle.config,
        bundle.code_map,
        bundle.checksum,
        bundle.made_by,
        bundle.metrics,
        renderer,
    )
    write_meta(updated)
    return updated


def write_meta(bundle: Bundle) -> None:
    """Write `model.json`."""
    codes = bundle.code_map
    meta = {
        "format": FORMAT,
        "kind": KIND,
        "weights_sha256": bundle.checksum,
        "config": bundle.config,
        "code_to_note": codes.code_to_note if codes else None,
        "offset_semitones": codes.offset_semitones if codes else None,
        "temperature": codes.temperature if codes else None,
        "renderer": bundle.renderer,
        "made_by": bundle.made_by,
        "metrics": bundle.metrics,
    }
    with atomic_write(bundle.folder / META, BundleError) as temporary:
        temporary.write_text(json.dumps(meta, indent=1) + "\n", encoding="utf-8")


def _save(module: nn.Module, path: Path) -> str:
    from safetensors.torch import save

    blob = save({k: v.contiguous().cpu() for k, v in module.state_dict().items()})
    with atomic_write(path, BundleError) as temporary:
        temporary.write_bytes(blob)
    return hashlib.sha256(blob).hexdigest()


def _read(path: Path, checksum: str) -> Weights:
    from safetensors import SafetensorError
    from safetensors.numpy import load

    try:
        blob = path.read_bytes()
    except OSError as e:
        raise BundleError(f"{path}: cannot be read ({e.strerror}); copy the model again") from None
    if hashlib.sha256(blob).hexdigest() != checksum:
        raise BundleError(
            f"{path}: does not match its checksum in {META}; it is damaged or "
            "belongs to another model; copy the model again"
        )
    try:
        return load(blob)
    except SafetensorError as e:
        raise BundleError(f"{path}: no weights ({e}); copy the model again") from None


def _fill(module: nn.Module, weights: Weights, path: Path) -> None:
    import torch

    with _weights_as_described(path):
        module.load_state_dict({k: torch.from_numpy(v) for k, v in weights.items()}, strict=True)


@contextmanager
def _weights_as_described(path: Path) -> Iterator[None]:
    """Say so where building or trying a network shows that its weights are another one's."""
    try:
        yield
    except (KeyError, ValueError, IndexError, RuntimeError) as e:
        line = (str(e) or repr(e)).splitlines()[0]
        raise BundleError(
            f"{path}: not the weights that {META} describes ({line}); copy the model again"
        ) from None
