"""The toy experiment of the KP-RPE paper (figure 1): upright digits in training, affine transforms of them in testing.

Run it with `python -m common.affnist`. Nothing else in this project imports it.
"""
