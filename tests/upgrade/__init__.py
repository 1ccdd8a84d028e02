"""The upgrade from 0.1.1, the version of others' making under this name, with the real one."""
