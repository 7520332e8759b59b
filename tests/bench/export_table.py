"""What each form of a published model costs and differs by: merged, adapter, stock, onnx, client by client.

    python tests/bench/export_table.py [--client_python ENV/bin/python] [--photos 32] [--backbones ../shared/backbones]

Runs are made without training: LoRA with random adapters and a calibrated head, on tiny S-shaped and H+-shaped (gated
MLP) backbones and, where it is there, on dinov3-vits16-like. Each form is exported and proved on generated scenes; the
largest logit difference from the run stands in the table, with size on disk, load time and photos per second (decoding
and preparing included) of the fresh process without the package. Not a test: it takes minutes.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from pathlib import Path

import torch
from transformers.utils import logging

from natix_hf.errors import UserError
from natix_hf.hub.export_forms import export_run
from natix_hf.hub.proof import SAME_PROCESS, WITH, WITHOUT, prove
from natix_hf.modeling.exports import FORMS
from natix_hf.scenes.photos import encode, scene

REPOSITORY = Path(__file__).resolve().parents[2]
COLUMNS = (SAME_PROCESS, WITH, WITHOUT, "client_python")


def rows(run: Path, folder: Path, content: list[bytes], client_python: str | None, half: bool) -> list[list[str]]:
    """One row of the table for each form of a run."""
    found = []
    forms = [(form, "fp32") for form in FORMS] + [(form, "bf16") for form in (("merged", "stock") if half else ())]
    for form, dtype in forms:
        out, base = folder / f"{form}-{dtype}", folder / "base-pushed" if form == "adapter" else None
        begin = time.perf_counter()
        document = export_run(run, form, out, dtype=dtype, base_output=base)
        export_seconds = time.perf_counter() - begin
        python = client_python if form == "stock" else None
        try:
            proof = prove(run, out, photos=content, base=base, client_python=python)
        except UserError as error:  # a result too
            found.append([f"{form} {dtype}", f"refused: {error}", *["-"] * 6, f"{document.bytes / 1e6:.2f}"])
            found[-1] += [f"{export_seconds:.1f}", "-", "-", "-"]
            print(" | ".join(found[-1]), file=sys.stderr, flush=True)
            continue
        clients = {client.client: client for client in proof.clients}
        without = clients[WITHOUT]
        found.append(
            [
                f"{form} {dtype}",
                *(f"{clients[name].logits:.1e}" if name in clients else "-" for name in COLUMNS),
                f"{max(client.pixels for client in clients.values()):.0e}",
                f"{min(client.decisions.same for client in clients.values())}/{len(content)}",
                f"{document.bytes / 1e6:.2f}",
                f"{export_seconds:.1f}",
                f"{without.load_seconds:.2f}",
                f"{without.photos_per_second:.1f}",
                f"{without.photos_per_cpu_second:.1f}",
            ]
        )
        print(" | ".join(found[-1]), file=sys.stderr, flush=True)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--client_python", help="an interpreter with transformers 4.57 and timm")
    parser.add_argument("--photos", type=int, default=32, help="how many scenes")
    parser.add_argument("--large_only", action="store_true", help="leave the tiny backbones out")
    parser.add_argument("--backbones", type=Path, default=REPOSITORY.parent / "shared" / "backbones")
    given = parser.parse_args()
    sys.path[:0] = [str(REPOSITORY / "tests" / "hub"), str(REPOSITORY / "tests")]
    from conftest import write_base, write_run  # of tests/hub

    logging.disable_progress_bar()
    logging.set_verbosity_error()
    content = [encode(scene(777, index)) for index in range(given.photos)]
    head = ["form", "same process", "fresh, package", "fresh, none", "client_python", "pixels", "decisions", "MB"]
    head += ["export s", "load s", "photos/s", "photos/CPU s"]
    with tempfile.TemporaryDirectory() as name:
        work = Path(name)
        bases = {
            "tiny S (32 wide, 32 px)": (write_base(work / "s", "s"), 32),
            "tiny H+ (gated MLP, 32 wide, 32 px)": (write_base(work / "h", "h_plus"), 32),
        }
        if given.large_only:
            bases = {}
        if (given.backbones / "dinov3-vits16-like").is_dir():
            bases["dinov3-vits16-like (ViT-S/16, 224 px)"] = (given.backbones / "dinov3-vits16-like", 224)
        print(
            f"torch {torch.__version__}, {torch.get_num_threads()} threads, {given.photos} generated scenes of 640x360"
        )
        for number, (title, (base, side)) in enumerate(bases.items()):
            # Adapters of 0.3 make 12 layers chaotic: noise of 1e-6 on a photo would move the run's own logits by 5.
            run = write_run(work / f"run{number}", base, image_size=side, scale=0.03 if side == 224 else 0.3)
            (work / str(number)).mkdir()
            table = rows(run, work / str(number), content, given.client_python, side == 224)
            print(
                f"\n{title}\n", "| " + " | ".join(head) + " |", "| " + " | ".join("---" for _ in head) + " |", sep="\n"
            )
            print("\n".join("| " + " | ".join(row) + " |" for row in table), flush=True)


if __name__ == "__main__":
    main()
