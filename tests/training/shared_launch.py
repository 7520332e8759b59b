"""Several jobs one after the other in the same processes, which saves the seconds that each launch takes.

Called with a JSON file: `photos`, `backbone`, `folder`, and `jobs`, a list of `name`, `method`, `kind` (the purpose),
`arguments` of training, `attention`, `lora` and `speed`. Writes `folder/NAME-losses.json` of every job: the losses of
its steps as logged, how far the trained weights of the processes are apart, and what passed a frozen network in each.
"""

import json
import sys
from pathlib import Path


def run(job: dict, common: dict) -> dict:
    """One job; a run for a refit is finished, of the others the losses are wanted."""
    import torch

    from natix_hf import NatixTrainer, NatixTrainingArguments, finish_run, load_model, load_photos, train_run
    from natix_hf.runs.range_test import RangeTest, finish_range_test
    from natix_hf.runs.refit import Refit, finish_refit

    folder = Path(common["folder"])
    splits = load_photos(common["photos"]).dedicate(job.get("kind", "run"))
    model, processor = load_model(
        common["backbone"],
        splits.label_names,
        method=job["method"],
        image_size=32,
        lora={"lora_r": 4, "lora_dropout": 0.0, **job.get("lora", {})},
        attn_implementation=job.get("attention", "sdpa"),
    )
    plain = {"learning_rate": 1e-3, "logging_steps": 1, "dataloader_num_workers": 0, "disable_tqdm": True}
    plain |= {"use_cpu": True, "eval_strategy": "no", "save_strategy": "no", **job["arguments"]}
    kind = {"run": NatixTrainer, "range test": RangeTest, "refit": Refit}[splits.purpose]
    more = {"honest": folder / job["honest"]} if splits.purpose == "refit" else {}
    arguments = NatixTrainingArguments(output_dir=str(folder / job["name"]), **plain)
    augment = "none" if job["method"] == "probe" else "basic"
    more |= {"augment": augment, "cache_dir": folder / f"{job['name']}-cache", **job.get("speed", {})}
    trainer = kind(model, arguments, splits=splits, processing_class=processor, **more)
    trainer.train() if splits.purpose == "range test" else train_run(trainer)
    with torch.no_grad():
        weights = torch.cat([p.flatten() for p in trainer.model.parameters() if p.requires_grad])
    gathered = trainer.accelerator.gather(weights[None])  # (processes, weights)
    if job.get("finish"):
        {"run": finish_run, "range test": finish_range_test, "refit": finish_refit}[splits.purpose](trainer)
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    # (processes, 2): photos that passed the frozen network in each process, and photos that a cache gave it
    passes = [
        sum(one.photos for one in trainer.source.passes.values()),
        sum(one.served for one in trainer.source.passes.values()),
    ]
    passed = trainer.accelerator.gather(torch.tensor([passes])).tolist()
    apart = float((gathered - gathered[0]).abs().max())
    return {"losses": losses, "apart": apart, "passed": passed, "sizes": splits.sizes}


def main() -> None:
    common = json.loads(Path(sys.argv[1]).read_text())
    import torch

    torch.set_num_threads(1)
    for job in common["jobs"]:
        found = run(job, common)
        if not torch.distributed.is_initialized() or torch.distributed.get_rank() == 0:
            (Path(common["folder"]) / f"{job['name']}-losses.json").write_text(json.dumps(found))


if __name__ == "__main__":
    main()
