"""What a model's classes rest on, found over a data set: responses, the lasso over them, what they show."""
