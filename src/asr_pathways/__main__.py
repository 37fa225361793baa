"""``python -m asr_pathways``, for launchers such as torchrun."""

from asr_pathways.cli.main import main

main()
