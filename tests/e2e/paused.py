"""Runs the training beside it, whose first attempt stands still after epoch 5 until somebody kills it."""

import builtins
import os
import runpy
import signal

write = print


def print_and_stop(text, **options):
    write(text, **options)
    if text.split("/")[0].split() == ["epoch", "5"]:
        signal.pause()


if os.environ["FETCHML_ATTEMPT"] == "1":
    builtins.print = print_and_stop
runpy.run_path("train.py", run_name="__main__")
