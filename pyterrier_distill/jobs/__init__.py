"""The commands ``label`` and ``train``: from files and names, what LabelStore.build and Distiller do in Python."""
