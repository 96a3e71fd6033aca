"""BEIR, TREC DL, LoTTE, TIREx and one's own collections: systems compared as the papers compare them."""
