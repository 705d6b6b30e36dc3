"""Pictures of images, labels and runs."""
