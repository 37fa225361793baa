"""What ships: the bundle, the sparse kernels, the streaming recogniser and the exports."""
