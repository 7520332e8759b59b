"""Makes our model known to transformers' Auto classes.

The classes need torch and half of transformers, seconds of import, and `--help` must not wait for them. So `import
natix_hf` registers at once only where transformers' auto models are loaded already, and else when they get loaded.
"""

import importlib.abc
import importlib.machinery
import importlib.util
import sys

TRIGGER = "transformers.models.auto.modeling_auto"


def register() -> None:
    """Register with `AutoConfig` and `AutoModelForImageClassification`; the code travels with saved weights."""
    from transformers import AutoConfig, AutoModelForImageClassification

    from natix_hf.modeling.configuration_natix_dinov3 import NatixDinov3Config
    from natix_hf.modeling.modeling_natix_dinov3 import NatixDinov3ForImageClassification

    AutoConfig.register(NatixDinov3Config.model_type, NatixDinov3Config, exist_ok=True)
    AutoModelForImageClassification.register(NatixDinov3Config, NatixDinov3ForImageClassification, exist_ok=True)
    NatixDinov3Config.register_for_auto_class()
    NatixDinov3ForImageClassification.register_for_auto_class("AutoModelForImageClassification")


def register_with_transformers() -> None:
    """Call `register` now if transformers' auto models are loaded, else as soon as they are."""
    if TRIGGER in sys.modules:
        register()
    else:
        sys.meta_path.insert(0, _AfterAutoModels())


class _AfterAutoModels(importlib.abc.MetaPathFinder):
    """Finds the trigger module like everybody else, and registers once it has run."""

    def find_spec(self, fullname, path=None, target=None) -> importlib.machinery.ModuleSpec | None:
        if fullname != TRIGGER:
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(fullname)
        run = spec.loader.exec_module

        def run_and_register(module) -> None:
            run(module)
            register()

        spec.loader.exec_module = run_and_register
        return spec
