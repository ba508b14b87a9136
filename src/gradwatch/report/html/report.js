// What the page of a run does beyond showing.
