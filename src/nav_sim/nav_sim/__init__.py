"""The robot everybody has: an indoor simulator with an RGB-D camera, its episodes, oracles and evaluation."""
