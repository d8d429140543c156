"""`python -m qanchor VERB ...`, and `torchrun -m qanchor pretrain ...` on many ranks."""

from qanchor.cli import main

if __name__ == "__main__":
    main()
