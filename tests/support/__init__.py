"""What tests of several rooms share: servers of their own, and ways to disturb them."""
