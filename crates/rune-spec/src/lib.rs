//! File formats of Rune: Runefile, tools, workflows, compose files, channels, packages.
