"""Registers our model with transformers' Auto classes.

Our classes import torch and half of transformers, which takes seconds, and `--help` must not wait for that. So `import
natix_hf` registers them immediately only if transformers' auto models are already loaded. Otherwise an import hook
registers them when the auto models are loaded. Registering immediately costs every command those seconds (measured in
docs/speed.md). transformers' own lazy tables accept only names of its own modules.
"""

import importlib.abc
import importlib.machinery
import importlib.util
import sys

TRIGGER = "transformers.models.auto.modeling_auto"
# The modules that `register` imports. transformers imports its auto models while it loads some of these (for
# docstrings), and they are incomplete at that time. Registration has to wait until the outermost import is complete.
NEEDED = ("transformers.modeling_utils", "transformers.models.dinov3_vit.", "natix_hf.modeling.")


def register() -> None:
    """Register with the Auto classes; `save_pretrained` then saves the code beside the weights."""
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
        # Without exist_ok transformers ignores the registration for one of its own configs, with no warning.
        AutoModelForImageClassification.register(DINOv3ViTConfig, AdapterOnDinov3, exist_ok=True)
    NatixDinov3Config.register_for_auto_class()
    NatixDinov3ImageProcessor.register_for_auto_class()
    NatixDinov3ForImageClassification.register_for_auto_class("AutoModelForImageClassification")


def register_with_transformers() -> None:
    """Call `register` now if transformers' auto models are loaded, otherwise when they have been loaded."""
    if TRIGGER in sys.modules:
        register()
    else:
        sys.meta_path.insert(0, _AfterAutoModels())


class _AfterAutoModels(importlib.abc.MetaPathFinder):
    """Import hook that registers after the trigger and the module that imported it have been executed.

    It leaves the search for modules to the other finders.
    """

    def __init__(self) -> None:
        self.running = 0

    def find_spec(self, fullname, path=None, target=None) -> importlib.machinery.ModuleSpec | None:
        if fullname != TRIGGER and not fullname.startswith(NEEDED):
            return None
        finders = [finder for finder in sys.meta_path if finder is not self]
        specs = (finder.find_spec(fullname, path, target) for finder in finders)
        spec = next((spec for spec in specs if spec is not None), None)
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
