"""Makes our model known to transformers' Auto classes.

The classes need torch and half of transformers, seconds of import, and `--help` must not wait for them. So `import
natix_hf` registers at once only where transformers' auto models are loaded already, and else when they get loaded,
through an import hook. Registering at once was measured (docs/speed.md) and costs every command those seconds;
transformers' own lazy tables take names of its own modules alone.
"""

import importlib.abc
import importlib.machinery
import importlib.util
import sys

TRIGGER = "transformers.models.auto.modeling_auto"
# What registering imports. transformers loads its auto models in the middle of some of these (for docstrings), and
# then they are half there: registering has to wait until the outermost is whole.
NEEDED = ("transformers.modeling_utils", "transformers.models.dinov3_vit.", "natix_hf.modeling.")


def register() -> None:
    """Register with `AutoConfig` and `AutoModelForImageClassification`; the code travels with saved weights."""
    from transformers import AutoConfig, AutoImageProcessor, AutoModelForImageClassification, DINOv3ViTConfig
    from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING_NAMES

    from natix_hf.modeling.adapter_natix_dinov3 import AdapterOnDinov3
    from natix_hf.modeling.configuration_natix_dinov3 import NatixDinov3Config
    from natix_hf.modeling.image_processing_natix_dinov3 import NatixDinov3ImageProcessor
    from natix_hf.modeling.modeling_natix_dinov3 import NatixDinov3ForImageClassification

    AutoConfig.register(NatixDinov3Config.model_type, NatixDinov3Config, exist_ok=True)
    AutoModelForImageClassification.register(NatixDinov3Config, NatixDinov3ForImageClassification, exist_ok=True)
    processors = {"torchvision": NatixDinov3ImageProcessor}
    AutoImageProcessor.register(NatixDinov3Config, image_processor_classes=processors, exist_ok=True)
    AdapterOnDinov3.model_class = NatixDinov3ForImageClassification
    if DINOv3ViTConfig.model_type not in MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING_NAMES:
        # exist_ok, or transformers leaves a class of its own alone and says nothing.
        AutoModelForImageClassification.register(DINOv3ViTConfig, AdapterOnDinov3, exist_ok=True)
    NatixDinov3Config.register_for_auto_class()
    NatixDinov3ImageProcessor.register_for_auto_class()
    NatixDinov3ForImageClassification.register_for_auto_class("AutoModelForImageClassification")


def register_with_transformers() -> None:
    """Call `register` now if transformers' auto models are loaded, else as soon as they are."""
    if TRIGGER in sys.modules:
        register()
    else:
        sys.meta_path.insert(0, _AfterAutoModels())


class _AfterAutoModels(importlib.abc.MetaPathFinder):
    """Finds modules like everybody else, and registers once the trigger and whatever asked for it have run."""

    def __init__(self) -> None:
        self.running = 0

    def find_spec(self, fullname, path=None, target=None) -> importlib.machinery.ModuleSpec | None:
        if fullname != TRIGGER and not fullname.startswith(NEEDED):
            return None
        finders = [finder for finder in sys.meta_path if finder is not self]
        found = (finder.find_spec(fullname, path, target) for finder in finders)
        spec = next((spec for spec in found if spec is not None), None)
        if spec is None or spec.loader is None:
            return spec
        run = spec.loader.exec_module

        def run_and_register(module) -> None:
            self.running += 1
            try:
                run(module)
            finally:
                self.running -= 1
            if not self.running and TRIGGER in sys.modules and self in sys.meta_path:
                sys.meta_path.remove(self)
                register()

        spec.loader.exec_module = run_and_register
        return spec
