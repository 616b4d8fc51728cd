"""Which CLIP a metric uses, as profiles say it: a published one by name and tag, its file, or a folder of one's own."""

from bench.metrics.models.open_clip_checkpoint import require_architecture
from bench.metrics.models.open_clip_model import LOCAL, PRECISION, OpenClipModel, OpenClipSpec, load_open_clip
from bench.records.results import Data
from bench.settings import Batch, Place, PlaceOrName
from fastflux.errors import FastFluxError


class ClipSettings(Data, frozen=True):
    """A CLIP and how many images it takes at once.

    Args:
        model: open_clip's name of the architecture, or a folder with ``open_clip_config.json`` and the weights.
        tag: open_clip's name of the weights; it decides the activation, also of a checkpoint's. Not of a folder.
        checkpoint: a file with them; without one open_clip fetches them. Not of a folder.
        reference: what the metric's scores may be called; "" names the model.
    """

    model: PlaceOrName = PlaceOrName("ViT-L-14")
    tag: str = "openai"
    checkpoint: Place = Place()
    batch_size: Batch = 64
    reference: str = ""

    def spec(self) -> OpenClipSpec:
        """The model in open_clip's terms.

        OpenAI's weights, and a few others, were trained with a fast approximation of GELU. open_clip builds
        ``ViT-L-14`` with exact GELU whatever the tag, so that every feature is off; its name with ``-quickgelu`` is
        the right one.

        Raises:
            FastFluxError: no such architecture, tag or file, or a file of another architecture.
        """
        if self.model.is_path:
            return OpenClipSpec(f"{LOCAL}{self.model}")
        return clip_spec(self.model, self.tag, self.checkpoint)

    def load(self, device: str) -> OpenClipModel:
        """The model, one for all metrics that ask for the same."""
        return load_open_clip(self.spec(), device, self.batch_size)

    def title(self, of: str) -> str:
        """What the scores may be called: the reference, or `of` that model with its tag and precision."""
        return self.reference or f"{of} {self.spec().model} {self.tag}, {PRECISION}"


def clip_spec(architecture: str, tag: str, checkpoint: Place) -> OpenClipSpec:
    """A published CLIP, built with the activation that its weights were trained with (`ClipSettings.spec`)."""
    import open_clip

    architecture = architecture.removesuffix("-quickgelu")
    found = open_clip.get_pretrained_cfg(architecture, tag)
    if not found:
        known = ", ".join(open_clip.list_pretrained_tags_by_model(architecture)) or "none, or no such architecture"
        raise FastFluxError(f"open_clip has no weights {tag!r} of {architecture}; it has {known}.")
    name = f"{architecture}-quickgelu" if found.get("quick_gelu") else architecture
    if not checkpoint:
        return OpenClipSpec(name, tag)
    if not checkpoint.path.is_file():
        source = f"https://huggingface.co/{str(found.get('hf_hub', '')).rstrip('/')}"
        raise FastFluxError(f"{checkpoint} is not there; download open_clip_model.safetensors from {source}.")
    if (found["mean"], found["std"], found["resize_mode"]) != (
        open_clip.OPENAI_DATASET_MEAN,
        open_clip.OPENAI_DATASET_STD,
        "shortest",
    ):
        raise FastFluxError(
            f"{tag} of {architecture} was trained on images prepared in another way than those a file is scored with; "
            "give no checkpoint, so that open_clip fetches both."
        )
    require_architecture(checkpoint.path, name)
    return OpenClipSpec(name, checkpoint)
