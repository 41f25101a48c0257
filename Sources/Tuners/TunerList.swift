public import Kernel

/// The tuners of this executable. A new one is added here, and nowhere else.
public let tuners: [any Policy.Type] = [
  TCPBuffer.self,
  Neigh.self,
  TCPMemory.self,
]

extension Tunable {
  /// The tuners that change it.
  var owners: Set<String> {
    Set(tuners.filter { type in type.tunables.contains(self) }.map { $0.name })
  }
}
