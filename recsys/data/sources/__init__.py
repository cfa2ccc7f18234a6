"""One adapter per public data set: from the files its publisher gives out to the log tables."""
