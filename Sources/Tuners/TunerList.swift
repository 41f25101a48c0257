/// The tuners of this executable. A new one is added here, and nowhere else.
public let tuners: [any Policy.Type] = [
  TCPBuffer.self,
  Neigh.self,
]
