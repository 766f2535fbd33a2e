"""The declared studies, one TOML file each."""
