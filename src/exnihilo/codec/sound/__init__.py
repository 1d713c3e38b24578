"""Sounds: files to samples, samples to frames and patches, augmentation, mu-law. See docs/sound.md."""
