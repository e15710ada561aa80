"""What a model can call. Knows neither models nor the runtime."""
