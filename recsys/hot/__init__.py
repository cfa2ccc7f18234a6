"""Hot-item potential: daily panel, as-of features, calibrated model, reasons and rolling-origin backtest."""
