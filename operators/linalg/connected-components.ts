// Which nodes of an undirected graph hang together: union-find with path halving (Tarjan 1975). Cost: nearly one step an edge.

export class ConnectedComponents {
  readonly #parent: Int32Array;

  constructor(nodes: number) {
    this.#parent = Int32Array.from({ length: nodes }, (_, node) => node);
  }

  join(a: number, b: number): void {
    const [one, other] = [this.firstOf(a), this.firstOf(b)];
    this.#parent[Math.max(one, other)] = Math.min(one, other);
  }

  /** The smallest node of a node's component. */
  firstOf(node: number): number {
    let at = node;
    while (this.#parent[at] !== at) {
      this.#parent[at] = this.#parent[this.#parent[at]!]!;
      at = this.#parent[at]!;
    }
    return at;
  }
}
