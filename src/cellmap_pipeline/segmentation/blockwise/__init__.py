"""Labels of volumes of any size, made block by block."""
