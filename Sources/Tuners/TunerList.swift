import Kernel

/// The tuners of this executable. A new one is added here, and nowhere else.
public let tuners: [any Policy.Type] = [
  TCPBuffer.self,
  TCPMemory.self,
  Neigh.self,
  TCPConn.self,
  TCPListen.self,
  TCPStart.self,
  SocketBuffer.self,
  NetBuffer.self,
  RouteTable.self,
  UDPBuffer.self,
  IPFrag.self,
  Conntrack.self,
]

extension Tunable {
  /// The tuners that change it.
  public var owners: Set<String> {
    Set(tuners.filter { type in type.tunables.contains(self) }.map { $0.name })
  }
}
