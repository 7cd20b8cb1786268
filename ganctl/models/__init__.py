"""One paper, one file, in the paper's order: config, networks, losses, phases, published layouts."""
