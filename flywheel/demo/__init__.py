"""One whole turn of the wheel, told as it happens: real engine, real training, real experiment; only the users are
simulated."""
