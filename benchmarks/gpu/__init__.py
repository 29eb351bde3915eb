"""What the losses, books and coders cost on a GPU (or, small, on the CPU): six parts, one Markdown file.

    PYTHONPATH=src python -m benchmarks.gpu [--parts a,c] [--device cuda|cpu] [--small] [--out FILE]

(a) each loss, (b) steps of two networks in three precisions, (c) CUDA graphs, (d) attribution, (e) coders, (f) ranks.
"""
