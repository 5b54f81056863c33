//! A directed graph of channels and names, and the circles in it.

use std::collections::VecDeque;
use std::sync::Arc;

use super::Space;

/// What messages are at.
#[derive(Clone, Debug)]
pub(super) enum Vertex {
    /// A channel (its place in the configuration) that takes certain names.
    Channel(usize),
    /// A name, or several, that something is sent to: its text.
    Name(Space, Arc<str>),
}

/// What messages may do next.
#[derive(Clone, Debug)]
pub(super) struct Edge {
    pub from: usize,
    pub to: usize,
    /// Every message does, as far as no handler ends its way.
    pub certain: bool,
    /// How.
    pub by: By,
}

/// By what messages go along an edge.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum By {
    /// From a channel, by this one of its outputs.
    Output(usize),
    /// From a channel, by its routes: a handler decides.
    Route,
    /// From a channel, as dead letters.
    DeadLetter,
    /// Into a channel, by its source.
    Source,
}

/// Vertices and edges are known by their numbers.
#[derive(Debug, Default)]
pub(super) struct Graph {
    vertices: Vec<Vertex>,
    edges: Vec<Edge>,
}

impl Graph {
    pub fn add_vertex(&mut self, vertex: Vertex) -> usize {
        self.vertices.push(vertex);
        self.vertices.len() - 1
    }

    pub fn add_edge(&mut self, edge: Edge) {
        self.edges.push(edge);
    }

    pub fn vertex(&self, number: usize) -> &Vertex {
        &self.vertices[number]
    }

    pub fn edge(&self, number: usize) -> &Edge {
        &self.edges[number]
    }

    /// Circles of the edges that `take` takes, each a list of edges that begins at its first
    /// channel. No two share a vertex, and at most `most` are given; there is one if there is any.
    pub fn circles(&self, take: impl Fn(&Edge) -> bool, most: usize) -> Vec<Vec<usize>> {
        let mut search = Search::new(self, take);
        let mut found = Vec::new();
        while found.len() < most
            && let Some(circle) = search.next()
        {
            found.push(circle);
        }
        found
    }
}

/// The part of a graph in which circles can be: without vertices that nothing goes to, or from.
struct Search<'g> {
    graph: &'g Graph,
    /// Edges out of each vertex, and into it.
    out: Vec<Vec<usize>>,
    into: Vec<Vec<usize>>,
    /// How many of those have both ends left.
    out_left: Vec<usize>,
    into_left: Vec<usize>,
    gone: Vec<bool>,
    /// Vertices before this one are not worth starting from.
    start: usize,
}

impl<'g> Search<'g> {
    fn new(graph: &'g Graph, take: impl Fn(&Edge) -> bool) -> Self {
        let count = graph.vertices.len();
        let (mut out, mut into) = (vec![Vec::new(); count], vec![Vec::new(); count]);
        for (number, edge) in graph.edges.iter().enumerate().filter(|(_, edge)| take(edge)) {
            out[edge.from].push(number);
            into[edge.to].push(number);
        }
        let counts = |edges: &[Vec<usize>]| edges.iter().map(Vec::len).collect::<Vec<_>>();
        let (out_left, into_left) = (counts(&out), counts(&into));
        let mut search =
            Search { graph, out, into, out_left, into_left, gone: vec![false; count], start: 0 };
        let dead = (0..count).filter(|v| search.is_dead(*v)).collect();
        search.remove(dead);
        search
    }

    fn is_dead(&self, vertex: usize) -> bool {
        self.out_left[vertex] == 0 || self.into_left[vertex] == 0
    }

    /// Take vertices out, and those that are in no circle then.
    fn remove(&mut self, mut vertices: Vec<usize>) {
        while let Some(vertex) = vertices.pop() {
            if std::mem::replace(&mut self.gone[vertex], true) {
                continue;
            }
            for edge in &self.out[vertex] {
                let to = self.graph.edges[*edge].to;
                self.into_left[to] -= 1;
                if self.is_dead(to) {
                    vertices.push(to);
                }
            }
            for edge in &self.into[vertex] {
                let from = self.graph.edges[*edge].from;
                self.out_left[from] -= 1;
                if self.is_dead(from) {
                    vertices.push(from);
                }
            }
        }
    }

    /// A circle, which is then taken out.
    fn next(&mut self) -> Option<Vec<usize>> {
        while *self.gone.get(self.start)? {
            self.start += 1;
        }
        let circle = self.shortest(self.on_circle(self.start)?)?;
        self.remove(circle.iter().map(|edge| self.graph.edges[*edge].from).collect());
        Some(circle)
    }

    fn next_edges(&self, vertex: usize) -> impl Iterator<Item = usize> {
        let left = |edge: &usize| !self.gone[self.graph.edges[*edge].to];
        self.out[vertex].iter().copied().filter(left)
    }

    /// A channel on a circle that can be reached from here. Every vertex that is left has one
    /// after it, so going on comes back somewhere.
    fn on_circle(&self, from: usize) -> Option<usize> {
        let mut seen = vec![false; self.gone.len()];
        let mut at = from;
        while !std::mem::replace(&mut seen[at], true) {
            at = self.graph.edges[self.next_edges(at).next()?].to;
        }
        // Channels and names take turns; the first channel of the file looks best.
        let mut first = None;
        let end = at;
        loop {
            if let Vertex::Channel(channel) = self.graph.vertices[at] {
                first = first.min(Some((channel, at))).or(Some((channel, at)));
            }
            at = self.graph.edges[self.next_edges(at).next()?].to;
            if at == end {
                return first.map(|(_, vertex)| vertex);
            }
        }
    }

    /// The shortest way from a vertex back to itself.
    fn shortest(&self, start: usize) -> Option<Vec<usize>> {
        let mut came_by: Vec<Option<usize>> = vec![None; self.gone.len()];
        let mut open = VecDeque::from([start]);
        while let Some(vertex) = open.pop_front() {
            for edge in self.next_edges(vertex) {
                let to = self.graph.edges[edge].to;
                if to == start {
                    let mut circle = vec![edge];
                    let mut at = vertex;
                    while at != start {
                        let edge = came_by[at]?;
                        circle.push(edge);
                        at = self.graph.edges[edge].from;
                    }
                    circle.reverse();
                    return Some(circle);
                }
                if came_by[to].is_none() {
                    came_by[to] = Some(edge);
                    open.push_back(to);
                }
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn graph(vertices: usize, edges: &[(usize, usize)]) -> Graph {
        let mut graph = Graph::default();
        for number in 0..vertices {
            graph.add_vertex(Vertex::Channel(number));
        }
        for (from, to) in edges {
            let (from, to) = (*from, *to);
            graph.add_edge(Edge { from, to, certain: true, by: By::Source });
        }
        graph
    }

    fn circles(vertices: usize, edges: &[(usize, usize)]) -> Vec<Vec<usize>> {
        let graph = graph(vertices, edges);
        let circles = graph.circles(|_| true, 10);
        circles.iter().map(|c| c.iter().map(|edge| graph.edge(*edge).from).collect()).collect()
    }

    #[test]
    fn circles_are_found_and_shown_the_short_way_from_their_first_channel() {
        assert!(circles(0, &[]).is_empty());
        assert!(circles(4, &[(0, 1), (1, 2), (0, 2), (2, 3)]).is_empty());
        assert_eq!(circles(1, &[(0, 0)]), [[0]]);
        assert_eq!(circles(4, &[(3, 1), (1, 2), (2, 3), (0, 1)]), [[1, 2, 3]]);
        // From 0 through 1 and 2 back, or through 3.
        assert_eq!(circles(4, &[(0, 1), (1, 2), (2, 0), (0, 3), (3, 0)]), [[0, 3]]);
        assert_eq!(circles(4, &[(0, 1), (1, 0), (2, 3), (3, 2), (1, 2)]), [[0, 1], [2, 3]]);
    }
}
