"""Collections of datasets on which everyone compares, and the averages that papers print over them."""
