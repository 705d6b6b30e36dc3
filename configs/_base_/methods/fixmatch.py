model = dict(type='FixMatch', threshold=0.95)
