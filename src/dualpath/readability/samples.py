"""A handful of excerpts, from nursery rhyme to legal prose, for demonstrations and first measurements."""

SAMPLES = {
    "Nursery rhyme": (
        "Little grey cat, where did you go? Down to the barn through the soft white snow. Little grey cat, what did "
        "you see? A small brown mouse, and it looked at me! Little grey cat, did you catch it then? No, it ran back to "
        "its hole again. Little grey cat, come in and rest. The mat by the fire is the place you love best."
    ),
    "Picture book": (
        "Sam had a red kite. He took it to the top of the hill. The wind was strong that day, and the kite pulled and "
        'pulled. "Hold on tight!" said his sister. Sam held on with both hands. Up went the kite, over the trees and '
        "over the house. Then the string broke! The kite flew away like a bird. Sam was sad, but the next morning he "
        "found it in the garden, sitting on top of the beans."
    ),
    "Children's novel": (
        "Nobody had opened the door at the end of the passage since Grandfather sailed away, and so, naturally, it was "
        "the only door that Nell wanted to open. She tried the handle on Monday, when it rained, and on Tuesday, when "
        "it did not. On Wednesday she found the key. It was hanging on a nail behind the clock, where anybody might "
        "have seen it, and it turned in the lock as easily as if it had been oiled that very morning."
    ),
    "Newspaper": (
        "The town council voted on Thursday to close the old bridge to cars from next spring, after engineers reported "
        "cracks in two of its five stone arches. Repairs are expected to take eighteen months and to cost about four "
        "million pounds. Shopkeepers on the east bank fear that visitors will stay away; cyclists, who will still be "
        "allowed to cross, welcomed the decision. A ferry will run every ten minutes during the summer."
    ),
    "Textbook": (
        "A glacier forms wherever more snow falls in winter than melts in summer. As the layers build up, their own "
        "weight presses the lower ones into ice, which slowly begins to flow downhill under gravity. The moving ice "
        "carries rocks of every size, and these scrape the bedrock beneath like sandpaper. When the climate warms and "
        "the glacier retreats, it leaves behind a wide valley with a flat floor, and ridges of loose stones, called "
        "moraines, that mark where its edges once lay."
    ),
    "Essay": (
        "It is a peculiarity of habit that we notice it only when it fails us: the hand that reaches for a lamp which "
        "was moved a week ago, the name that arrives unbidden when another was wanted. Custom performs so much of our "
        "thinking that we are inclined to credit ourselves with its labour, and to mistake the ease of repetition for "
        "the clarity of judgement. To examine a habit is therefore already to weaken it, which may explain the "
        "reluctance with which even candid minds undertake the inquiry."
    ),
    "Research abstract": (
        "We investigate the sensitivity of decadal precipitation forecasts to the parameterisation of sub-grid "
        "convective transport in a coupled ocean-atmosphere model. Ensemble integrations initialised from identical "
        "states diverge within eleven months when entrainment coefficients are perturbed by less than their "
        "observational uncertainty, whereas perturbations of cloud microphysics of comparable magnitude produce no "
        "statistically significant response. The asymmetry suggests that convective closure, rather than "
        "initialisation error, constitutes the dominant limitation on predictability at these horizons."
    ),
    "Legal prose": (
        "Notwithstanding any provision of this Agreement to the contrary, the Indemnifying Party shall not be liable "
        "for any consequential, incidental or exemplary damages arising out of or in connection with the performance, "
        "non-performance or purported performance of its obligations hereunder, save to the extent that such damages "
        "are finally adjudicated to have resulted from the gross negligence or wilful misconduct of the Indemnifying "
        "Party, its affiliates, or their respective officers, successors and permitted assigns, and provided always "
        "that the Indemnified Party shall have given notice thereof in accordance with Clause 14."
    ),
}
"""By a short title."""
