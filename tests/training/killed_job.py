"""A job in a process of its own that can kill itself, for tests of `kill -9` and of several processes."""

import json
import os
import signal
import sys


def main() -> None:
    job = json.loads(sys.argv[1])
    import torch

    torch.set_num_threads(1)
    from transformers import TrainerCallback

    from natix_hf import NatixTrainer, NatixTrainingArguments, finish_run, load_model, load_photos, train_run
    from natix_hf.training import saving as module

    class Kill(TrainerCallback):
        def on_step_end(self, args, state, control, **kwargs):
            if state.global_step == job.get("kill_at"):
                os.kill(os.getpid(), signal.SIGKILL)

    if "kill_while_saving" in job:
        whole = module.mark_complete

        def killed(folder):
            if str(folder).endswith(f"-{job['kill_while_saving']}"):
                os.kill(os.getpid(), signal.SIGKILL)  # all files are there but the one that says so
            whole(folder)

        module.mark_complete = killed
    if "kill_in_save_file" in job:
        save_file = module.save_file

        def cut(tensors, path):
            save_file(tensors, path)
            if f"-{job['kill_in_save_file']}/" in str(path):
                with open(path, "r+b") as file:
                    file.truncate(100)
                os.kill(os.getpid(), signal.SIGKILL)

        module.save_file = cut

    splits = load_photos(job["photos"])
    model, processor = load_model(
        job["backbone"],
        splits.label_names,
        method=job["method"],
        image_size=32,
        lora={"lora_r": 4, "lora_dropout": job.get("dropout", 0.1), **job.get("lora", {})},
        head_dropout=job.get("dropout", 0.1),
    )
    trainer = NatixTrainer(
        model,
        NatixTrainingArguments(
            output_dir=job["run"],
            **{
                "learning_rate": 1e-3,
                "logging_steps": 1,
                "dataloader_num_workers": 0,
                "disable_tqdm": True,
                "use_cpu": True,
                **job["arguments"],
            },
        ),
        splits=splits,
        processing_class=processor,
        callbacks=[Kill()],
    )
    train_run(trainer)
    finish_run(trainer)


if __name__ == "__main__":
    main()
