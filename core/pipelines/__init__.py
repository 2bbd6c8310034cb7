"""From images and files to images and files."""
