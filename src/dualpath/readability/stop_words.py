"""English function words, spelled as `features.words` gives them: lower case, without apostrophes."""

_WORDS = """
the a an
i me my mine myself we us our ours ourselves you your yours yourself yourselves thou thee thy thine
he him his himself she her hers herself it its itself they them their theirs themselves one ones
this that these those here there who whom whose which what when where why how
all any both each either every few less little many more most much neither none no nothing other others another
same several some somebody someone something such anybody anyone anything everybody everyone everything nobody
am is are was were be been being have has had having do does did doing done
can could may might must shall should will would ought
isnt arent wasnt werent havent hasnt hadnt dont doesnt didnt cant cannot couldnt mustnt shant shouldnt wont wouldnt
im ive id ill youre youve youd youll hes shes theyre theyve theyd theyll weve wed thats theres whos lets
and but or nor so yet if then else than because although though while until unless since whether as
of at by for with without about against between among into onto through during before after above below to from
up down in out on off over under upon within along across behind beside beyond near toward towards
again further once not only own too very just also even ever never always still now
"""

STOP_WORDS = frozenset(_WORDS.split())
