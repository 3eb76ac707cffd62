"""Networks as frozen data: variants, configs, block strings, config files."""
