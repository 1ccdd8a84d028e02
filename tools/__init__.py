"""Developer tools of this repository; none of it is in the wheel."""
