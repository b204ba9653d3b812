"""Makes the tiny chat model, or asks it.

    python -m examples.chat.training train       writes examples/chat/model/tiny-chat.gguf (some 40 minutes on one core)
    python -m examples.chat.training evaluate    asks it what it was not trained on

`make chat-model` does both, with packages of its own (requirements/train.txt) in build/chat-model.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Final

MODEL_FILE: Final = Path(__file__).resolve().parent.parent / "model" / "tiny-chat.gguf"


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m examples.chat.training",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--model", type=Path, default=MODEL_FILE, help="the GGUF file (default: %(default)s)")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    training = commands.add_parser("train", help="train and write the file; needs torch")
    training.add_argument(
        "--talk-steps", type=int, help="steps of the second, longer part (default: as the committed file was made)"
    )
    evaluation = commands.add_parser("evaluate", help="count right answers by kind; needs openvino-genai")
    evaluation.add_argument("--per-kind", type=int, default=50, help="prompts of each kind (default: %(default)s)")
    evaluation.add_argument("--wrong", type=int, default=0, metavar="N", help="show the first N wrong answers")
    options = parser.parse_args(arguments)
    if options.command == "train":
        return _train(options.model, options.talk_steps)
    return _evaluate(options.model, options.per_kind, options.wrong)


def _train(file: Path, talk_steps: int | None) -> int:
    from examples.chat.training import gguf, tokenizer  # evaluation goes without torch
    from examples.chat.training.model import Shape
    from examples.chat.training.train import Schedule, train

    schedule = Schedule() if talk_steps is None else Schedule(talk_steps=talk_steps)
    pieces = tokenizer.train()
    model = train(pieces, Shape(), schedule, _say)
    gguf.write(file, model, pieces)
    _say(f"{file}: {file.stat().st_size:,} bytes")
    return 0


def _evaluate(file: Path, per_kind: int, wrong: int) -> int:
    from examples.chat.training.evaluate import evaluate, expected

    if not file.is_file():
        print(f"{file} does not exist: make it with `make chat-model`", file=sys.stderr)
        return 1
    score = evaluate(file, per_kind, lambda line: print(line, file=sys.stderr, flush=True))
    _say("\n".join(score.lines()))
    for talk, answer in score.wrong[:wrong]:
        _say(f"{talk.kind}: asked {talk.messages[-2]['content']!r}, got {answer!r}, wanted {expected(talk)!r}")
    return 0


def _say(line: str) -> None:
    print(line, flush=True)


if __name__ == "__main__":
    sys.exit(main())
