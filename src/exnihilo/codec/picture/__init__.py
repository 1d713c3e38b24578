"""Pictures: files to pixels, pixels to patches, augmentation, palettes. See docs/pictures.md."""
