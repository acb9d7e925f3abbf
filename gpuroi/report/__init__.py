"""Figures and offline HTML pages of results. Figures need matplotlib: `pip install 'gpuroi[report]'`."""
