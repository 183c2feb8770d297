"""Records to tables; reads what ``sweep.records`` reads, and nothing of torch."""
