"""Hot-item potential: the calibrated chance that a product becomes hot days ahead."""
