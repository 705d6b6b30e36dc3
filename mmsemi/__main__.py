"""``python -m mmsemi``: the console command."""

from mmsemi.apis.cli import main

main()
