"""Configuration: the INI file and the five files of an endpoint, as frozen values."""
