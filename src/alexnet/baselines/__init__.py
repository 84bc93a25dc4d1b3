"""The systems the network was compared with: SIFT with Fisher vectors, and sparse coding. They need scikit-learn."""
