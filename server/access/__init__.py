"""Who a request is from: keys, client secrets, and what each of them may do."""
