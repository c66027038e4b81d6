"""The incremental update of weightspan in float64 NumPy, on whole matrices: no tiles, no lazy mix, no threads.

State after n models: S (rows orthogonal, row j scaled to s_j = sqrt(lam_j)), mean m (relative to the shift), exact total
scatter T. A block X arrives, Y = [S; m; X], K = C Y Y' C' = Q lam Q', S' = Q[:l]' C Y (Ross et al. 2008, sec. 2.1.1).
Uncentred: Y = [S; X], C = 1, no mean row. The first `rank` rows are reported, up to max(2 rank, 16) are kept.
"""
import numpy as np

CUTS = (1, 4, 16)
RANK_THRESHOLD = 2.0**-20
ROUNDING = 2.0**-19


def cuts_of(rank):
    """(label, directions); a cut beyond the reported rank is left out, k is the rank itself."""
    return [(str(j), j) for j in CUTS if j <= rank] + [('k', rank)]


class Subspace:
    def __init__(self, features, rank, centred=True):
        self.features, self.rank, self.centred = features, rank, centred
        self.n = 0
        self.S = np.zeros((0, features))
        self.m = np.zeros(features)
        self.lam = np.zeros(0)
        self.total = self.lost = self.next_sum = self.largest_gram = 0.0
        self.coefficients = np.zeros((0, 0))
        self.norm2 = np.zeros(0)

    def update(self, X, origin):
        """Folds a block (b x D, shifted); origin is the base, or zero, in the same shifted coordinates."""
        b, n, r = len(X), self.n, len(self.S)
        with_mean = self.centred and n > 0
        Y = np.vstack([self.S, self.m[None], X] if with_mean else [self.S, X])
        first = len(Y) - b
        G = Y @ Y.T
        C, c = self._centring(b, r, n)
        K = C @ G @ C.T
        K = (K + K.T) / 2
        scores = self._score(X, G[first:, :r], origin, G.diagonal().max())

        lam, Q = np.linalg.eigh(K)
        lam, Q = lam[::-1], Q[:, ::-1]
        largest = G.diagonal()[r:].max()
        cap = min(n + b - 1 if self.centred else n + b, self.features, max(2 * self.rank, 16))
        keep = min(cap, int((lam > RANK_THRESHOLD * max(lam[0], largest)).sum()))
        self.largest_gram = max(self.largest_gram, largest)
        self.total += np.trace(K) - np.trace(K[:r, :r])
        self.lost += np.maximum(lam[keep:], 0).sum()
        self.next_sum += max(lam[keep], 0) if keep < len(lam) else 0.0
        lam, Q = lam[:keep], Q[:, :keep]

        s, s_new = np.sqrt(self.lam), np.sqrt(lam)
        W = Q[:r] * s_new / s[:, None]
        drift = self._drift(W)
        self._carry_coefficients(W, K, Q, s, s_new, b)
        self.S = Q.T @ C @ Y
        if self.centred:
            self.m = (n * self.m + X.sum(0)) / (n + b)
        self.lam, self.n = lam, n + b
        return scores, drift

    def _centring(self, b, r, n):
        if not self.centred:
            return np.eye(r + b), 0.0
        H = np.eye(b) - 1 / b
        if n == 0:
            return H, 0.0
        c = np.sqrt(n * b / (n + b))
        C = np.zeros((r + b + 1, r + 1 + b))
        C[:r, :r] = np.eye(r)
        C[r : r + b, r + 1 :] = H
        C[-1, r] = c
        C[-1, r + 1 :] = -c / b
        return C, c

    def _score(self, X, GXS, origin, largest):
        """Prequential: each model against the state before its block. Null in the first block and at rounding level."""
        raw2 = ((X - origin) ** 2).sum(1)
        if self.n == 0:
            return [{'raw_norm2': float(raw), 'centred2': None, 'captured2': None, 'mean_only': None} for raw in raw2]
        k = min(self.rank, len(self.S))
        centred2 = ((X - self.m) ** 2).sum(1)
        along = (GXS[:, :k] - self.S[:k] @ self.m) ** 2 / self.lam[:k]
        out = []
        for centred, captured, raw in zip(centred2, along.sum(1), raw2):
            known = centred > RANK_THRESHOLD * largest
            out.append({
                'raw_norm2': float(raw),
                'centred2': float(centred) if known else None,
                'captured2': float(captured) if known else None,
                'mean_only': float(1 - centred / raw) if self.centred and raw > RANK_THRESHOLD * largest else None,
            })
        return out

    def _drift(self, W):
        """Principal angles (degrees) between the first j directions before and after, and their overlap."""
        drift = {}
        for label, j in cuts_of(self.rank):
            known = min(W.shape) >= j
            angles = np.degrees(np.arccos(np.clip(np.linalg.svd(W[:j, :j], compute_uv=False), 0, 1))) if known else None
            drift[f'angle_max_{label}'] = float(angles.max()) if known else None
            drift[f'angle_mean_{label}'] = float(angles.mean()) if known else None
            drift[f'overlap_{label}'] = float((W[:j, :j] ** 2).sum() / j) if known else None
        return drift

    def _carry_coefficients(self, W, K, Q, s, s_new, b):
        n, r = self.n, len(s)
        block = Q[r : r + b] * s_new
        block2 = K.diagonal()[r : r + b]
        if n == 0 or not self.centred:
            older, older2 = self.coefficients @ W, self.norm2
        else:
            a, a_block = np.sqrt(b / (n * (n + b))), np.sqrt(n / (b * (n + b)))
            q = Q[-1] * s_new
            older = self.coefficients @ W + a * q
            older2 = self.norm2 + 2 * a * self.coefficients @ (K[:r, -1] / s) + a * a * K[-1, -1]
            block = block - a_block * q
            block2 = block2 - 2 * a_block * K[r : r + b, -1] + a_block * a_block * K[-1, -1]
        self.coefficients = np.vstack([older, block]) if n else block
        self.norm2 = np.concatenate([older2, block2])

    def directions(self):
        """Unit rows, each with its largest entry positive, and the signs that made them so."""
        U = self.S / np.sqrt(self.lam)[:, None]
        signs = np.sign(U[np.arange(len(U)), np.abs(U).argmax(1)]) if len(U) else np.zeros(0)
        return U * signs[:, None], signs

    def slack(self):
        """True eigenvalue j lies in [lam_j, lam_j + slack]: truncation only ever removes."""
        top = max(self.lam[0] if len(self.lam) else 0.0, self.largest_gram)
        return min(self.next_sum, self.total - self.lam.sum()) + ROUNDING * top

    def evr(self):
        reported = self.lam[: self.rank]
        known = self.total > RANK_THRESHOLD * self.largest_gram
        share = lambda j: float(reported[:j].sum() / self.total) if known and len(reported) >= j else None
        return {f'evr_{label}': share(j) for label, j in cuts_of(self.rank)}
