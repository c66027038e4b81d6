"""Holds the update's algebra against dense float64: everything is recomputed from D-dimensional rows by SVD.

The surrogate Z is what truncation has left of every model, n x D. Truncation projects its rows, so its singular values,
directions and coordinates must be the state's own at every block.
"""
import numpy as np

TOLERANCE = 1e-9


def agree(what, found, expected, scale, tolerance=TOLERANCE):
    error = np.abs(np.asarray(found) - np.asarray(expected)).max(initial=0.0) / max(scale, 1e-300)
    if not error <= tolerance:
        raise AssertionError(f'{what}: off by {error:.2e} (relative to {scale:.3g}), allowed {tolerance:.0e}')


class DenseCheck:
    def __init__(self, all_rows, state):
        self.all, self.state = all_rows, state
        self.Z = np.zeros((0, all_rows.shape[1]))
        self.m = np.zeros(all_rows.shape[1])
        self.U = self.Z
        self.dropped2 = np.zeros(0)

    def after_block(self, X, scores, drift):
        state, n, b = self.state, len(self.Z), len(X)
        m_new = (n * self.m + X.sum(0)) / (n + b) if state.centred else self.m
        surrogate = np.vstack([self.Z + (self.m - m_new), X - m_new])
        _, s, V = np.linalg.svd(surrogate, full_matrices=False)
        keep = len(state.lam)
        U, _ = state.directions()
        top = max(s[0] ** 2, 1e-300)
        agree('eigenvalues', state.lam, s[:keep] ** 2, top)
        agree('orthogonality', U @ U.T, np.eye(keep), 1, 1e-7)
        self._check_scores(X, scores)
        self._check_drift(drift, U)
        kept = surrogate @ V[:keep].T @ V[:keep]
        agree('coefficients', (state.coefficients / np.sqrt(state.lam)) @ state.S, kept, s[0], 1e-7)
        agree('sum of coefficients squared', state.coefficients.T @ state.coefficients, np.diag(state.lam), top)
        agree('sum of distances', state.norm2.sum(), state.total, state.total)
        self.dropped2 = np.append(self.dropped2, np.zeros(b)) + ((surrogate - kept) ** 2).sum(1)
        agree('distances', state.norm2, (kept**2).sum(1) + self.dropped2, state.norm2.max())
        if state.centred:
            agree('sum of coefficients', state.coefficients.sum(0), 0, np.sqrt(top), 1e-8)
            agree('mean', state.m, m_new, np.abs(m_new).max())
        seen = self.all[: n + b] - m_new
        agree('total', state.total, (seen**2).sum(), (seen**2).sum())
        self.Z, self.m, self.U = kept, m_new, U

    def _check_scores(self, X, scores):
        U = self.U[: self.state.rank]
        for x, score in zip(X, scores):
            if score['captured2'] is not None:
                away = x - self.m
                agree('centred2', score['centred2'], away @ away, away @ away)
                agree('captured2', score['captured2'], ((U @ away) ** 2).sum(), away @ away, 1e-8)

    def _check_drift(self, drift, U):
        for name, value in drift.items():
            if value is None or not name.startswith('overlap'):
                continue
            cut = name.rpartition('_')[2]
            j = self.state.rank if cut == 'k' else int(cut)
            cosines = np.clip(np.linalg.svd(self.U[:j] @ U[:j].T, compute_uv=False), 0, 1)
            agree(name, value, (cosines**2).sum() / j, 1, 1e-7)
            agree(f'cos angle_max_{cut}', np.cos(np.radians(drift[f'angle_max_{cut}'])), cosines.min(), 1, 1e-7)
            agree(f'angle_mean_{cut}', drift[f'angle_mean_{cut}'], np.degrees(np.arccos(cosines)).mean(), 90, 1e-5)

    def at_end(self):
        state = self.state
        truth = np.linalg.svd(self.all - self.m, compute_uv=False) ** 2
        kept = len(state.lam)
        rounding = 1e-10 * truth[0]
        low, high = state.lam - rounding, state.lam + state.slack() + rounding
        if not ((low <= truth[:kept]) & (truth[:kept] <= high)).all():
            raise AssertionError('the truncation bound does not enclose the exact eigenvalues')
        agree('explained plus lost', state.lam.sum() + state.lost, state.total, state.total)
        if state.lost <= rounding:
            away = self.all - self.m
            agree('distances', state.norm2, (away**2).sum(1), (away**2).sum(1).max())
